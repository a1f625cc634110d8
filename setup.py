"""Packages of the wheel: `elastify`, and `recipes/` under the name `elastify_recipes`.

Everything else stands in pyproject.toml; only this renaming cannot be said there without listing every folder.
"""

from setuptools import find_namespace_packages, setup

library = find_namespace_packages(include=["elastify", "elastify.*"])
recipes = find_namespace_packages(include=["recipes", "recipes.*"])

setup(
    packages=[*library, *("elastify_recipes" + name.removeprefix("recipes") for name in recipes)],
    package_dir={"elastify_recipes": "recipes"},
)
