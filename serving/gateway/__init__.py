"""The HTTP edge: routes, wire models, server-sent events, headers. Holds no policy."""
