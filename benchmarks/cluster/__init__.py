"""What a cluster does to a run: random kills, nodes that come and go, and what more machines gain.
The clusters are Ray's own, with processes of this machine as nodes. Start reading in chaos.py.
"""
