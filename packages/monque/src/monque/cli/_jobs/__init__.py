"""Parts of `monque jobs`."""
