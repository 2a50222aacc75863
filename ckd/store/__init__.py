"""Files and folders at a path or a URL (s3://, gs://), each written whole or not at all.

Parts and folders of the stages stand on them; each holds the fingerprint of what it was made from. Start reading in
artifacts.py.
"""
