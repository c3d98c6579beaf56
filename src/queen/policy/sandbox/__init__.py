"""The process policies run in, and the queen's side of it: a script that hangs or breaks out harms nothing here."""
