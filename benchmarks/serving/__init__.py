"""What a finished student does per second: `ckd predict` over many visits, and `ckd serve` under load.
Students are tiny and untrained, so that the machinery is measured. Start reading in predict.py and server.py.
"""
