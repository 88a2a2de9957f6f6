"""`fedge-agent bugreport`: one archive that helps whoever helps, and tells nobody a secret."""
