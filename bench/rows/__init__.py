"""What is measured, a module each. In each an `async def measure(size, note)` returns its `Row`."""
