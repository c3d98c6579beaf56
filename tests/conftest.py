from hypothesis import settings

# No test asserts a time: a busy machine is not a defect.
settings.register_profile("rbee", deadline=None)
settings.load_profile("rbee")
