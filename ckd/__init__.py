"""The science on one machine: visits, teacher, head, soft labels, student, evaluation. Knows nothing of Ray or clusters."""

__version__ = "0.1.0"
