"""What training the student costs beside the public code's loop, and what its answers cost beside the teacher's.
Visits are made up, with the measured lengths. Start reading in training.py and versus_teacher.py.
"""
