"""Parts of `monque worker`."""
