"""From input rows to the stored cohort: read and checked, named, split by subject, written as shards.

Labels, input sentence and public files have their one home here too. Start reading in visit.py, then prepare.py.
"""
