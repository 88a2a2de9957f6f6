"""The one piece of I/O both sides share: a thin asyncio driver over paho, chunks and resends."""
