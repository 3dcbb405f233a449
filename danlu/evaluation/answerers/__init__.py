"""Who can be measured: heads, prompted language models, endpoints, ensembles, and baselines without a Transformer."""
