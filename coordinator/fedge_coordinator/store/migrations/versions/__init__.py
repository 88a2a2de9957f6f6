"""The versions of the tables, oldest first. A version that was released is never edited."""
