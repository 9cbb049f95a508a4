"""The testbed's task families: items made on the spot, never stored."""
