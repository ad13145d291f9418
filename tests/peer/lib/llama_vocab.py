"""llama.cpp's tokenizer out of the xllamacpp wheel, called through its C API.

The wheel's Python classes only take JSON, which cannot carry invalid UTF-8 or turn special
tokens off; the C functions behind them are exported and take bytes.
"""
import ctypes
import glob
import os


class Params(ctypes.Structure):
    # llama_model_params is passed by value and its tail changes between releases: more room
    # than any of them needs, filled in by llama.cpp itself.
    _fields_ = [("raw", ctypes.c_ubyte * 512)]


def library():
    import xllamacpp  # ImportError: the caller skips

    here = os.path.dirname(xllamacpp.__file__)
    lib = ctypes.CDLL(glob.glob(os.path.join(here, "xllamacpp*.so"))[0])
    lib.llama_model_default_params.restype = Params
    lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Params]
    lib.llama_model_load_from_file.restype = ctypes.c_void_p
    lib.llama_model_free.argtypes = [ctypes.c_void_p]
    lib.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    lib.llama_model_get_vocab.restype = ctypes.c_void_p
    lib.llama_tokenize.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32,
        ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]
    lib.llama_tokenize.restype = ctypes.c_int32
    lib.llama_token_to_piece.argtypes = [
        ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32,
        ctypes.c_bool]
    lib.llama_token_to_piece.restype = ctypes.c_int32
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *a: None)
    lib.llama_log_set(quiet, None)
    lib.quiet = quiet  # keep it alive
    lib.llama_backend_init()
    return lib


class Vocab:
    def __init__(self, lib, path):
        self.lib = lib
        self.model = lib.llama_model_load_from_file(
            os.fsencode(path), lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = lib.llama_model_get_vocab(self.model)

    def encode(self, text, special=False, bos=False):
        room = 4 * len(text) + 64
        out = (ctypes.c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, text, len(text), out, room, bos, special)
        if n < 0:
            raise RuntimeError(f"llama_tokenize wants room for {-n}")
        return list(out[:n])

    def piece(self, token, special=True):
        buf = ctypes.create_string_buffer(4096)
        n = self.lib.llama_token_to_piece(self.vocab, token, buf, 4096, 0, special)
        return buf.raw[:max(n, 0)]

    def close(self):
        self.lib.llama_model_free(self.model)
