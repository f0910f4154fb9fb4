"""Words all rooms share: errors, ids, paths, settings, events, durable writes, the process contract."""
