"""Tasks: what models are asked to do, one value each. A file of this folder that holds TASKS is found by itself."""
