"""Exact retrieval: nearest neighbours under the metric that was trained, and the measures computed from them."""
