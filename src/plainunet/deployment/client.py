"""A client of `plainunet serve`."""

import io
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plainunet.errors import Error, take_path

Source = str | Path | bytes | NDArray[Any]
"""An image: a file, its content, or an array [H, W, C] or [H, W] as stored."""


class ServerError(Error):
    """The server refused a request.

    Attributes:
        status: The HTTP status code.
        code: A short name of the reason.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        """Make the error."""
        super().__init__(message, code)
        self.status = status


class Client:
    """Predicts masks on a server. It may be used by several threads, and as a context manager."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout: float = 120.0,
        retries: int = 10,
    ) -> None:
        """Set the address.

        Args:
            url: Address of the server, such as "http://localhost:8000".
            token: Its token. Default: the environment variable PLAINUNET_TOKEN, else none.
            timeout: Longest time without an answer [s].
            retries: How often to try again while the server is busy.

        Raises:
            ValueError: The address does not begin with http:// or https://.
        """
        if not url.startswith(("http://", "https://")):
            raise Error(
                f"{url}: is no address of a server. Give one such as http://localhost:8000."
            )
        token = token or os.environ.get("PLAINUNET_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # without the proxies of the environment: the server is near
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._retries = retries

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: Source) -> NDArray[np.uint8]:
        """Predict a mask.

        Args:
            image: A file, its content, or an array.

        Returns:
            Mask [H, W] uint8 of class ids, 255 for missing pixels.

        Raises:
            ServerError: The image was refused.
            ValueError: The image is neither a path, bytes nor an array.
            OSError: The file cannot be read, or the server not reached.
        """
        with Image.open(io.BytesIO(self.fetch(image, "mask"))) as mask:
            return np.array(mask)

    def fetch(self, image: Source, output: str = "mask", **parameters: Any) -> bytes:
        """Predict, and return the content of the answer.

        Args:
            image: A file, its content, or an array.
            output: Its format, such as "overlay", "rle", "coco", "contours", "tiff" or
                "probabilities-16".
            parameters: Further parameters of the query, such as `page`.

        Raises:
            ServerError: The image was refused.
            ValueError: The image is neither a path, bytes nor an array.
            OSError: The file cannot be read, or the server not reached.
        """
        name, content = _read(image)
        files = {"file": (name, content)}
        return self._request(
            "POST", "/v1/predict", params={"output": output, **parameters}, files=files
        ).content

    def model(self) -> dict[str, Any]:
        """Return the model card and the limits of the server."""
        card: dict[str, Any] = self._request("GET", "/v1/model").json()
        return card

    def swap_model(self, path: str | Path) -> str:
        """Replace the server's model, which needs the token. Returns its digest."""
        content = Path(path).read_bytes()
        return str(self._request("POST", "/v1/model", content=content).json()["digest"])

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Wait until the server accepts requests.

        Args:
            seconds: Longest time to wait [s].

        Raises:
            TimeoutError: It does not in that time.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                if self._http.get("/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{self._http.base_url}: not ready after {seconds:g} s. Read the server's log."
                )
            time.sleep(0.1)

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request, again while the server is busy."""
        for left in reversed(range(self._retries + 1)):
            try:
                answer = self._send(method, path, **content)
            except httpx.TransportError as error:
                raise OSError(f"{self._http.base_url}: no answer ({error}).") from None
            wait = answer.headers.get("Retry-After", "")
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or not (left and wait):
                break
            time.sleep(float(wait) if wait.isdecimal() else 1)  # a proxy may send a date
        if answer.is_error:
            raise _as_error(answer)
        return answer

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request, once again if the connection breaks: one process of several died."""
        try:
            return self._http.request(method, path, **content)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if (method, path) == ("POST", "/v1/model"):  # it may have been replaced
                raise
            return self._http.request(method, path, **content)


def _read(image: Source) -> tuple[str, bytes]:
    """The name and the content of an image file."""
    if isinstance(image, bytes):
        return "image", image
    if isinstance(image, np.ndarray):
        file = io.BytesIO()
        np.save(file, image)
        return "image.npy", file.getvalue()
    path = take_path(image, "image")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder. Give the file of an image.")
    return path.name, path.read_bytes()


def _as_error(answer: httpx.Response) -> ServerError:
    try:
        problem = answer.json()
        return ServerError(answer.status_code, problem["code"], problem["message"])
    except (ValueError, KeyError, TypeError):  # such as of a proxy
        return ServerError(answer.status_code, "error", answer.text[:200])
