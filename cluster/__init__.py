"""The machines: Ray sessions, pools of workers, training groups, jobs, notices of spot machines.

It runs what jobs hands it, and imports neither torch nor ckd. Start reading in pool.py, which maps a worker over
shards.
"""
