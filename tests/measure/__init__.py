"""How good figures are, held against recorded responses: `python -m tests.measure.costs`."""
