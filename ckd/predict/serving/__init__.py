"""Answers requests over HTTP with a loaded student.

Start in app.py, which has the routes. A request passes guard.py first, is checked by schema.py and waits in batcher.py.
"""
