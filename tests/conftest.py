from hypothesis import settings

# No test asserts a time: a busy machine is not a defect. make test looks at the same examples each time, make soak at
# many others.
settings.register_profile("rbee", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, max_examples=5_000)
settings.load_profile("rbee")
