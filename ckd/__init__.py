"""The science on one machine: a language model reads hospital visits, a BERT-size student learns from it and is scored.

Nothing here knows of Ray or clusters. Start reading in run.py, then stage.py and visits/visit.py.
"""

__version__ = "0.1.0"
