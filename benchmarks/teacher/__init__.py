"""What the teacher's pass costs, beside the public code's way and plain AutoModel. Models and prompts are random, and
the prompts have the measured lengths. Start reading in speed.py.
"""
