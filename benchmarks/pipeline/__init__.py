"""What the pipeline costs around the teacher: reading, tokenising, storing, the head, the bootstrap, and `ckd ingest`.
Nothing here needs a model or a GPU. Start reading in overhead.py, which `make bench` runs.
"""
