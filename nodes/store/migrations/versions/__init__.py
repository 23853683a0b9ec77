"""One file a version, applied in the order of their numbers. A file that was released is never changed."""
