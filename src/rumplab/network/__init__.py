"""The lab's bridge: its settings, the host's current state, and the steps that bring the bridge up and down."""
