"""How well a language model foretells a text."""
