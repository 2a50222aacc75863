"""What tests and benchmarks share, so that they need not import each other: rows, prompts, Ray clusters, clients.
It imports neither of them. Start reading in rows.py.
"""
