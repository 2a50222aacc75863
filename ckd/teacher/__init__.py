"""The teacher embeds every visit once with a large language model, an engine.

On the stored embeddings it fits the heads and writes soft labels. Start reading in embed.py.
"""
