"""The shop: an API over a SQLite database, and a web front that talks to the API."""
import json
import pkgutil

# Read through the import system, so that it works in a folder and in a zipapp.
PACKAGE = json.loads(pkgutil.get_data(__name__, "package.json"))
VERSION = PACKAGE["version"]
