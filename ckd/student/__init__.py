"""Trains the student, a BERT-size network, on true labels, soft labels and, where asked, the teacher's embeddings.

Start in train.py, which is one rank from its data to the last epoch. What is learned is in loss.py, in which order in
order.py, and export.py writes the result.
"""
