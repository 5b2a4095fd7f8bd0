"""How good costs and estimates are, held against recorded responses: `python -m tests.measure.costs`."""
