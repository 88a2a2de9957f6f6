import subprocess
import sys


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_deferred_module_loads_at_the_first_use_of_a_name_and_not_by_its_import():
    program = """
import sys
from fedge_agent import deferred
deferred.install()
import urllib.request, tempfile
print("http.client" in sys.modules, "shutil" in sys.modules and hasattr(sys.modules["shutil"], "__file__"))
print(urllib.request.getproxies is sys.modules["urllib.request"].getproxies, "http.client" in sys.modules)
import urllib.request as again
print(type(again).__name__, tempfile.gettempdir() != "")
from shutil import rmtree
print(rmtree.__module__)
"""
    assert python(program).splitlines() == ["False False", "True True", "module True", "shutil"]


def test_a_name_that_a_deferred_module_lacks_is_still_an_error():
    program = """
from fedge_agent import deferred
deferred.install()
import tempfile
try:
    tempfile.no_such_name
except AttributeError as error:
    print(error)
"""
    assert python(program) == "module 'tempfile' has no attribute 'no_such_name'"


def test_what_is_loaded_already_stays():
    program = """
import tempfile, cffi
from fedge_agent import deferred
before = tempfile
deferred.install()
import tempfile, cffi
print(tempfile is before, cffi.__name__)
"""
    assert python(program) == "True cffi"


def test_keccak_does_without_cffi():
    program = """
from fedge_agent import deferred
deferred.install()
from fedge_protocol.keccak import keccak256
print(keccak256(b"").hex())
"""
    assert python(program) == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
