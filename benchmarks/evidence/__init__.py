"""Evidence for the student's options: an ablation on synthetic patients, chosen on tuning and confirmed once on others.
Seeds, sizes, arms and the criterion are in ablation.yaml, committed before the runs. Start reading in ablation.py.
"""
