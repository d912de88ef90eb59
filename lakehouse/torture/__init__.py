"""Real processes, killed and cut off by seeded chance, and a comparison of source and lake afterwards.

`process` and `house` are also what the acceptance tests are made of.
"""
