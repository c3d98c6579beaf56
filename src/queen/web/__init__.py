"""The queen over HTTP: what OpenAI's clients speak, and whether she is well."""
