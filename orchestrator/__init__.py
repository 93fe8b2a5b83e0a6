"""Five rooms, one way: grid -> plan -> execute -> record -> results."""
