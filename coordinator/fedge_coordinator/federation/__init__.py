"""The coordinator at the broker: what comes in is checked, what goes out is signed, a job's rounds are run."""
