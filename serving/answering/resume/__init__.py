"""An answer that breaks off and is continued, by the local model or by a provider."""
