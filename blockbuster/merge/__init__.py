"""The merge: labels of different tiles become one object, final ids are written."""
