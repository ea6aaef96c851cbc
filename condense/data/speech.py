"""Speech from the espeak-ng library inside the `espeakng-loader` wheel, called through ctypes: no program, no download.

The library keeps global state: one `Speaker` at a time in a process, used from one thread.
"""

from __future__ import annotations

import _ctypes
import ctypes
from pathlib import Path

import espeakng_loader
import numpy as np

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback before espeak_Synth returns
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """Speaks words in the voices of espeak-ng. All new speakers sound the same."""

    _library: ctypes.CDLL | None = None
    _voice: str | None = None
    sample_rate: int = 22_050

    def __init__(self) -> None:
        if Speaker._library is not None:
            # Each utterance continues from the voice's last phases. Only unloading the library resets them.
            Speaker._library.espeak_Terminate()
            _ctypes.dlclose(Speaker._library._handle)
            Speaker._library = Speaker._voice = None
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(Path(espeakng_loader.get_data_path()).parent).encode()
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if rate <= 0:
            raise RuntimeError(f"espeak-ng did not start (code {rate}) with the data in {data.decode()}")
        Speaker._library, Speaker.sample_rate = library, rate
        self._chunks: list[np.ndarray] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only a bare pointer to it

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, word: str, voice: str, *, rate: int, pitch: int, pitch_range: int = 50, seed: int = 0) -> np.ndarray:
        """One utterance: (samples,) float32 in [-1, 1] at `sample_rate`. It also depends on what was said before.

        Args:
            voice: espeak-ng's `language+variant`, such as `en-gb+f2`.
            rate: words per minute, 80 to 450.
            pitch, pitch_range: 0 to 100.
            seed: of the voice's flutter and breath.

        Raises:
            ValueError: there is no such voice, or it said nothing.
        """
        library = Speaker._library
        assert library is not None
        library.espeak_SetSynthCallback(self._callback)
        if voice != Speaker._voice:  # changing the voice takes about 15 ms
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            Speaker._voice = voice
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        text = word.encode() + b"\0"
        self._chunks = []
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # espeak-ng seeds itself with the time of day
        library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _UTF8, None, None)
        if not self._chunks:
            raise ValueError(f"voice {voice!r} said nothing for {word!r}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768.0
