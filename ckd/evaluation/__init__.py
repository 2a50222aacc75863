"""Measures the student beside the teacher and the baselines on held_out visits, and reports it.

metrics.json has every figure; report.html and the model card are made from it.
Start in evaluate.py; a metric is a row of metrics.py, a baseline a row of baselines.py.
"""
