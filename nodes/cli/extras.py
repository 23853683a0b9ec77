"""Libraries that only some commands need, and the extra of the package that brings each."""

from __future__ import annotations

LIBRARIES = {
    "faces": ("cv2", "insightface", "onnx", "onnxruntime", "PIL"),
    "node": (
        "alembic", "anyio", "httpx", "llvmlite", "numba", "prometheus_client", "psycopg", "sqlalchemy",
        "starlette", "uvicorn", "uvloop", "webauthn",
    ),
    "console": ("argon2", "jinja2", "multipart", "python_multipart"),
    "exchange": ("nistitl",),
    "cluster": ("ray",),
    "openfhe": ("openfhe",),
}  # fmt: skip
EXTRA_OF = {library: extra for extra, libraries in LIBRARIES.items() for library in libraries}


def install_hint(error: ModuleNotFoundError) -> str | None:
    """What to install so that a command can run; None if what is missing belongs to no extra."""
    library = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(library)
    if extra is None:
        return None
    return f'this command needs {library}, which is not installed: pip install "blind-lineup[{extra}]"'
