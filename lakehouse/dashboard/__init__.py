"""The dashboard: pages for people, above everything else. They ask what programs ask, and nobody asks them."""
