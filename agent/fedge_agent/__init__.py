"""The daemon on the device: trains, masks, uploads, and stays out of the way."""
