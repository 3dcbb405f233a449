"""Danlu: from raw text to a served large model, on the hardware you have."""
