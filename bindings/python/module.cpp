// SPDX-License-Identifier: Apache-2.0
//
// The Python module: one type, Snapshot, that owns one still_snapshot and lends its bytes by the buffer
// protocol. It stands on the C interface alone and on Python's stable ABI of 3.11, the first that has the
// buffer protocol, so that one build serves every later Python 3.
//
// Two rules keep it sound:
//   - A view counts as an export, and close() refuses while there is one: a memoryview never outlives its
//     bytes.
//   - Whatever may wait (an open, a close, a large copy, a look at the file) runs without the GIL and under a
//     share of its own, so that a close() in another thread cannot take the bytes away meanwhile.
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
// after Python.h, which has to come first
#include <stillmap/stillmap.h>
#include <string.h>
#include <structmember.h>

#include <memory>
#include <new>
#include <utility>

namespace {

// Less is copied in 0.6 us where the pages are in memory, while another thread may keep the GIL for 5 ms.
constexpr Py_ssize_t copy_without_gil_min_bytes = 65536;

// --- small owners ---

struct unref {
  void operator()(PyObject* object) const noexcept { Py_DecRef(object); }
};
using object = std::unique_ptr<PyObject, unref>;  // a strong reference, or none

class without_gil {
 public:
  without_gil() noexcept : state_(PyEval_SaveThread()) {}
  ~without_gil() { PyEval_RestoreThread(state_); }
  without_gil(const without_gil&) = delete;
  without_gil& operator=(const without_gil&) = delete;

 private:
  PyThreadState* state_;
};

// Another owner of the bytes for as long as a call takes. Declared after without_gil, for its end may be the
// last one.
class share {
 public:
  explicit share(still_snapshot* of) noexcept : held_(still_share(of)) {}
  ~share() { still_close(held_); }
  share(const share&) = delete;
  share& operator=(const share&) = delete;

 private:
  still_snapshot* held_;
};

struct module_state {
  PyObject* error;         // stillmap.Error
  PyTypeObject* snapshot;  // stillmap.Snapshot
  PyTypeObject* identity;  // stillmap.Identity
};

struct snapshot_object {
  PyObject base;           // what PyObject_HEAD says
  still_snapshot* handle;  // null: closed
  Py_ssize_t exports;      // views that point into the bytes
  PyObject* name;          // str, bytes or int, as open was given it
  PyObject* weak_references;
};

snapshot_object* of(PyObject* self) noexcept {
  return reinterpret_cast<snapshot_object*>(self);
}

module_state* state_of(PyObject* module) noexcept {
  return static_cast<module_state*>(PyModule_GetState(module));
}
// Snapshot cannot be inherited from: the type of an instance is always the one that the module made.
module_state* state_of_type(PyObject* self) noexcept {
  return static_cast<module_state*>(PyType_GetModuleState(Py_TYPE(self)));
}

// --- errors ---

const char* code_name(int error) noexcept {
  switch (error) {
    case STILL_ERROR_BUSY_WRITER:
      return "busy_writer";
    case STILL_ERROR_UNSUPPORTED:
      return "unsupported";
    case STILL_ERROR_OVER_BUDGET:
      return "over_budget";
    case STILL_ERROR_CHANGING:
      return "changing";
    case STILL_ERROR_LOST:
      return "lost";
    default:
      return "unknown";
  }
}

// 1 where message begins with the name and a colon, which Python will say itself behind it; -1 on an error.
int begins_with_name(const char* message, PyObject* name, size_t& length) noexcept {
  if (name == nullptr || !(PyUnicode_Check(name) || PyBytes_Check(name))) return 0;
  PyObject* encoded = nullptr;
  if (!PyUnicode_FSConverter(name, &encoded)) return -1;
  const object owned(encoded);
  length = static_cast<size_t>(PyBytes_Size(encoded));
  return strncmp(message, PyBytes_AsString(encoded), length) == 0 && strncmp(message + length, ": ", 2) == 0;
}

// Sets the exception for what a function of the library returned. Always null.
PyObject* raise(module_state* state, int error, PyObject* name,
                const char* message = still_message()) noexcept {
  size_t length = 0;
  const int named = begins_with_name(message, name, length);
  if (named < 0) return nullptr;
  if (named > 0) message += length + 2;
  const object words(message[0] != '\0' ? PyUnicode_DecodeFSDefault(message)
                                        : PyUnicode_FromString(still_strerror(error)));
  if (!words) return nullptr;
  const bool ours = error > STILL_ERROR_BASE;
  PyObject* const type = ours ? state->error : PyExc_OSError;
  const object raised(name != nullptr ? PyObject_CallFunction(type, "iOO", error, words.get(), name)
                                      : PyObject_CallFunction(type, "iO", error, words.get()));
  if (!raised) return nullptr;
  if (ours) {
    const object code(PyUnicode_FromString(code_name(error)));
    if (!code || PyObject_SetAttrString(raised.get(), "code", code.get()) < 0) return nullptr;
  }
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(raised.get())), raised.get());
  return nullptr;
}

// Runs call() without the GIL. A failure is put into words there too: that may search /proc for writers.
template <class Call>
int unlocked(Call call) noexcept {
  const without_gil released;
  const int error = call();
  if (error != 0) still_message();
  return error;
}

still_snapshot* alive(PyObject* self) noexcept {
  still_snapshot* const handle = of(self)->handle;
  if (handle == nullptr) PyErr_SetString(PyExc_ValueError, "the snapshot is closed");
  return handle;
}

// 0 where the bytes can be touched. Where some were lost, those asked for are tried first, so that what would
// be a signal is an exception.
int touchable(PyObject* self, still_snapshot* handle, size_t offset, size_t length) noexcept {
  if (length == 0 || still_current(handle) != STILL_LOST) return 0;
  const int error = unlocked([&] {
    const share mine(handle);
    return still_advise(handle, offset, length, STILL_ADVISE_POPULATE);
  });
  if (error == 0) return 0;
  raise(state_of_type(self), STILL_ERROR_LOST, of(self)->name, "some of these bytes could not be kept");
  return -1;
}

// --- arguments ---

const char* backing_name(int value) noexcept {
  return value <= STILL_TRUSTED ? still_backing_name(static_cast<still_backing>(value)) : nullptr;
}
const char* require_name(int value) noexcept {
  return value == 0                     ? ""  // None: the library's default
         : value <= STILL_POINT_IN_TIME ? still_consistency_name(static_cast<still_consistency>(value))
                                        : nullptr;
}
const char* access_name(int value) noexcept {
  static constexpr const char* names[] = {"default", "sequential", "random"};
  return value <= STILL_ACCESS_RANDOM ? names[value] : nullptr;
}
const char* fork_name(int value) noexcept {
  static constexpr const char* names[] = {"absent", "carry"};
  return value <= STILL_FORK_CARRY ? names[value] : nullptr;
}
const char* advice_name(int value) noexcept {
  static constexpr const char* names[] = {"", "sequential", "random", "willneed", "populate", "hugepage"};
  return value <= STILL_ADVISE_HUGEPAGE ? names[value] : nullptr;
}

// Converters for PyArg_ParseTupleAndKeywords: 1, or 0 and an exception.
template <const char* (*Name)(int)>
int word(PyObject* given, void* into) noexcept {
  if (!PyUnicode_Check(given)) {
    PyErr_Format(PyExc_TypeError, "expected a str, not %R", given);
    return 0;
  }
  for (int value = 0; const char* name = Name(value); ++value)
    if (name[0] != '\0' && PyUnicode_CompareWithASCIIString(given, name) == 0) {
      *static_cast<int*>(into) = value;
      return 1;
    }
  object known(PyUnicode_FromString(""));
  for (int value = 0; const char* name = known ? Name(value) : nullptr; ++value)
    if (name[0] != '\0') {
      const bool first = PyUnicode_GetLength(known.get()) == 0;
      known.reset(PyUnicode_FromFormat("%U%s'%s'", known.get(), first ? "" : ", ", name));
    }
  if (known) PyErr_Format(PyExc_ValueError, "%R is none of %U", given, known.get());
  return 0;
}

int require_word(PyObject* given, void* into) noexcept {
  if (Py_IsNone(given)) {
    *static_cast<int*>(into) = 0;
    return 1;
  }
  return word<require_name>(given, into);
}

int unsigned_number(PyObject* given, void* into) noexcept {
  const object number(PyNumber_Index(given));
  if (!number) return 0;
  const unsigned long long value = PyLong_AsUnsignedLongLong(number.get());
  if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred()) return 0;
  *static_cast<unsigned long long*>(into) = value;
  return 1;
}

// The options of open and open_many, which have all but the first argument in common.
bool read_arguments(PyObject* arguments, PyObject* keywords, const char* format, const char* first,
                    PyObject** what, still_options& options) noexcept {
  const char* const names[] = {first,           "require", "backing",  "offset", "length",
                               "memory_budget", "strict",  "populate", "synced", "padding",
                               "access",        "fork",    nullptr};
  int require = 0, backing = STILL_AUTO, strict = 0, populate = 0, synced = 0;
  int access = STILL_ACCESS_DEFAULT, fork = STILL_FORK_ABSENT;
  unsigned long long offset = 0, length = 0, memory_budget = 0, padding = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, format, const_cast<char**>(names), what, require_word,
                                   &require, word<backing_name>, &backing, unsigned_number, &offset,
                                   unsigned_number, &length, unsigned_number, &memory_budget, &strict,
                                   &populate, &synced, unsigned_number, &padding, word<access_name>, &access,
                                   word<fork_name>, &fork))
    return false;
  if (padding > UINT32_MAX) {
    PyErr_SetString(PyExc_OverflowError, "padding is more than 32 bits hold");
    return false;
  }
  options = {};
  options.size = sizeof options;
  options.backing = static_cast<still_backing>(backing);
  options.require = static_cast<still_consistency>(require);
  options.offset = offset;
  options.length = length;
  options.memory_budget = memory_budget;
  options.access = access;
  options.fork = fork;
  options.flags = (strict ? unsigned{STILL_STRICT} : 0u) | (synced ? unsigned{STILL_SYNCED} : 0u) |
                  (populate ? unsigned{STILL_POPULATE} : 0u);
  options.padding = static_cast<uint32_t>(padding);
  return true;
}

// --- Snapshot ---

// A closed one. Made before the open, so that nothing is left to fail after it.
object make_snapshot(module_state* state, PyObject* name) noexcept {
  const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(state->snapshot, Py_tp_alloc));
  object made(allocate(state->snapshot, 0));
  if (made) of(made.get())->name = Py_NewRef(name);
  return made;
}

void snapshot_dealloc(PyObject* self) noexcept {
  snapshot_object* const it = of(self);
  if (it->weak_references != nullptr) PyObject_ClearWeakRefs(self);
  if (it->handle != nullptr) {
    const without_gil released;
    still_close(it->handle);
  }
  Py_XDECREF(it->name);
  PyTypeObject* const type = Py_TYPE(self);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

PyObject* snapshot_close(PyObject* self, PyObject*) noexcept {
  snapshot_object* const it = of(self);
  if (it->exports > 0)
    return PyErr_Format(PyExc_BufferError, "cannot close: %zd exported view%s of the snapshot exist",
                        it->exports, it->exports == 1 ? "" : "s");
  if (still_snapshot* const handle = std::exchange(it->handle, nullptr)) {
    const without_gil released;
    still_close(handle);
  }
  return Py_NewRef(Py_None);
}

PyObject* snapshot_enter(PyObject* self, PyObject*) noexcept {
  return alive(self) != nullptr ? Py_NewRef(self) : nullptr;
}
PyObject* snapshot_exit(PyObject* self, PyObject*) noexcept {
  return snapshot_close(self, nullptr);
}

int snapshot_get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) {
    view->obj = nullptr;
    return -1;
  }
  if (PyBuffer_FillInfo(view, self, const_cast<void*>(still_data(handle)),
                        static_cast<Py_ssize_t>(still_size(handle)), 1, flags) < 0)
    return -1;
  ++of(self)->exports;
  return 0;
}
void snapshot_release_buffer(PyObject* self, Py_buffer*) noexcept {
  --of(self)->exports;
}

Py_ssize_t snapshot_length(PyObject* self) noexcept {
  const still_snapshot* const handle = alive(self);
  return handle != nullptr ? static_cast<Py_ssize_t>(still_size(handle)) : -1;
}

PyObject* snapshot_item(PyObject* self, Py_ssize_t index) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  if (index < 0 || index >= static_cast<Py_ssize_t>(still_size(handle))) {
    PyErr_SetString(PyExc_IndexError, "snapshot index out of range");
    return nullptr;
  }
  if (touchable(self, handle, static_cast<size_t>(index), 1) != 0) return nullptr;
  return PyLong_FromLong(static_cast<const unsigned char*>(still_data(handle))[index]);
}

PyObject* snapshot_slice(PyObject* self, still_snapshot* handle, PyObject* slice) noexcept {
  Py_ssize_t start, stop, step;
  if (PySlice_Unpack(slice, &start, &stop, &step) < 0) return nullptr;
  const Py_ssize_t count =
      PySlice_AdjustIndices(static_cast<Py_ssize_t>(still_size(handle)), &start, &stop, step);
  object copy(PyBytes_FromStringAndSize(nullptr, count));
  if (!copy || count == 0) return copy.release();
  const Py_ssize_t last = start + (count - 1) * step;
  const Py_ssize_t lowest = step > 0 ? start : last, highest = step > 0 ? last : start;
  const share mine(handle);  // touchable gives the GIL up
  if (touchable(self, handle, static_cast<size_t>(lowest), static_cast<size_t>(highest - lowest + 1)) != 0)
    return nullptr;
  const char* const from = static_cast<const char*>(still_data(handle)) + start;
  char* const to = PyBytes_AsString(copy.get());
  const auto take = [=] {
    if (step == 1)
      memcpy(to, from, static_cast<size_t>(count));
    else
      for (Py_ssize_t i = 0; i < count; ++i) to[i] = from[i * step];
  };
  if (count >= copy_without_gil_min_bytes) {
    const without_gil released;
    take();
  } else {
    take();
  }
  return copy.release();
}

PyObject* snapshot_subscript(PyObject* self, PyObject* key) noexcept {
  still_snapshot* handle = alive(self);
  if (handle == nullptr) return nullptr;
  if (PyIndex_Check(key)) {
    const Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred()) return nullptr;
    handle = alive(self);  // __index__ may be Python code, and close it
    if (handle == nullptr) return nullptr;
    return snapshot_item(self, index < 0 ? index + static_cast<Py_ssize_t>(still_size(handle)) : index);
  }
  if (PySlice_Check(key)) {
    const share mine(handle);  // for the same reason
    return snapshot_slice(self, handle, key);
  }
  return PyErr_Format(PyExc_TypeError, "snapshot indices are integers or slices, not %R", key);
}

// `b"words" in s` and `65 in s`. Without it Python would compare byte for byte, and never find words.
int snapshot_contains(PyObject* self, PyObject* what) noexcept {
  unsigned char single = 0;
  Py_buffer view{};
  const bool number = PyIndex_Check(what) != 0;
  if (number) {
    const Py_ssize_t value = PyNumber_AsSsize_t(what, PyExc_ValueError);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value < 0 || value > 255) {
      PyErr_SetString(PyExc_ValueError, "a byte is 0 to 255");
      return -1;
    }
    single = static_cast<unsigned char>(value);
  } else if (PyObject_GetBuffer(what, &view, PyBUF_SIMPLE) < 0) {
    return -1;
  }
  int found = -1;
  if (still_snapshot* const handle = alive(self)) {
    const share held(handle);
    const size_t size = still_size(handle);
    if (touchable(self, handle, 0, size) == 0) {
      const without_gil released;
      found = number ? memchr(still_data(handle), single, size) != nullptr
                     : memmem(still_data(handle), size, view.buf, static_cast<size_t>(view.len)) != nullptr;
    }
  }
  if (!number) PyBuffer_Release(&view);
  return found;
}

PyObject* snapshot_repr(PyObject* self) noexcept {
  const snapshot_object* const it = of(self);
  if (it->handle == nullptr) return PyUnicode_FromFormat("<stillmap.Snapshot of %R, closed>", it->name);
  return PyUnicode_FromFormat("<stillmap.Snapshot of %R: %zu bytes, %s, %s, %s>", it->name,
                              still_size(it->handle), still_backing_name(still_how(it->handle)),
                              still_consistency_name(still_when(it->handle)),
                              still_state_name(still_current(it->handle)));
}

PyObject* snapshot_how(PyObject* self, void*) noexcept {
  const still_snapshot* const handle = alive(self);
  return handle != nullptr ? PyUnicode_FromString(still_backing_name(still_how(handle))) : nullptr;
}
PyObject* snapshot_when(PyObject* self, void*) noexcept {
  const still_snapshot* const handle = alive(self);
  return handle != nullptr ? PyUnicode_FromString(still_consistency_name(still_when(handle))) : nullptr;
}
PyObject* snapshot_current(PyObject* self, void*) noexcept {
  const still_snapshot* const handle = alive(self);
  return handle != nullptr ? PyUnicode_FromString(still_state_name(still_current(handle))) : nullptr;
}
PyObject* snapshot_private_bytes(PyObject* self, void*) noexcept {
  const still_snapshot* const handle = alive(self);
  return handle != nullptr ? PyLong_FromUnsignedLongLong(still_private_bytes(handle)) : nullptr;
}
PyObject* snapshot_lost_bytes(PyObject* self, void*) noexcept {
  const still_snapshot* const handle = alive(self);
  return handle != nullptr ? PyLong_FromUnsignedLongLong(still_lost_bytes(handle)) : nullptr;
}
PyObject* snapshot_name(PyObject* self, void*) noexcept {
  return Py_NewRef(of(self)->name);
}
PyObject* snapshot_closed(PyObject* self, void*) noexcept {
  return PyBool_FromLong(of(self)->handle == nullptr);
}

PyObject* snapshot_changed(PyObject* self, PyObject*) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  int changed = 0;
  {
    const without_gil released;
    const share mine(handle);
    changed = still_changed(handle);
  }
  return PyBool_FromLong(changed);
}

PyObject* snapshot_refresh(PyObject* self, PyObject*) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  object newer = make_snapshot(state_of_type(self), of(self)->name);
  if (!newer) return nullptr;
  const int error = unlocked([&] {
    const share mine(handle);
    return still_refresh(handle, &of(newer.get())->handle);
  });
  return error == 0 ? newer.release() : raise(state_of_type(self), error, of(self)->name);
}

PyObject* snapshot_share(PyObject* self, PyObject*) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  object other = make_snapshot(state_of_type(self), of(self)->name);
  if (other) of(other.get())->handle = still_share(handle);
  return other.release();
}

PyObject* snapshot_identity(PyObject* self, PyObject*) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  still_identity_t identity{};
  identity.size = sizeof identity;
  const int error = unlocked([&] {
    const share mine(handle);
    return still_identity(handle, &identity);
  });
  if (error != 0) return raise(state_of_type(self), error, of(self)->name);
  object made(PyStructSequence_New(state_of_type(self)->identity));
  if (!made) return nullptr;
  PyStructSequence_SetItem(made.get(), 0, PyBool_FromLong(identity.exact != 0));
  const uint64_t numbers[] = {identity.device,   identity.inode,    identity.length,
                              identity.birth_ns, identity.ctime_ns, identity.generation};
  for (Py_ssize_t i = 0; i < 6; ++i) {
    PyObject* const number = PyLong_FromUnsignedLongLong(numbers[i]);
    if (number == nullptr) return nullptr;
    PyStructSequence_SetItem(made.get(), i + 1, number);
  }
  return made.release();
}

PyObject* snapshot_advise(PyObject* self, PyObject* arguments, PyObject* keywords) noexcept {
  const char* const names[] = {"advice", "offset", "length", nullptr};
  int advice = 0;
  unsigned long long offset = 0, length = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O&|O&O&:advise", const_cast<char**>(names),
                                   word<advice_name>, &advice, unsigned_number, &offset, unsigned_number,
                                   &length))
    return nullptr;
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  const int error = unlocked([&] {
    const share mine(handle);
    return still_advise(handle, offset, length, advice);
  });
  return error == 0 ? Py_NewRef(Py_None) : raise(state_of_type(self), error, of(self)->name);
}

PyObject* snapshot_detach(PyObject* self, PyObject*) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  const int error = unlocked([&] {
    const share mine(handle);
    return still_detach(handle);
  });
  return error == 0 ? Py_NewRef(Py_None) : raise(state_of_type(self), error, of(self)->name);
}

PyObject* snapshot_text(PyObject* self, PyObject*) noexcept {
  still_snapshot* const handle = alive(self);
  if (handle == nullptr) return nullptr;
  const share mine(handle);  // touchable gives the GIL up, and an allocation may run the collector
  const size_t size = still_size(handle);
  if (touchable(self, handle, 0, size) != 0) return nullptr;
  return PyUnicode_DecodeUTF8(static_cast<const char*>(still_data(handle)), static_cast<Py_ssize_t>(size),
                              "strict");
}

#define KEYWORDS(function) reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function))

PyMethodDef snapshot_methods[] = {
    {"close", snapshot_close, METH_NOARGS,
     "close($self, /)\n--\n\nGive the bytes up. BufferError while a view of them is exported; closing twice "
     "is fine."},
    {"__enter__", snapshot_enter, METH_NOARGS, nullptr},
    {"__exit__", snapshot_exit, METH_VARARGS, nullptr},
    {"text", snapshot_text, METH_NOARGS,
     "text($self, /)\n--\n\nThe bytes decoded as UTF-8, a copy. UnicodeDecodeError where they are not."},
    {"changed", snapshot_changed, METH_NOARGS,
     "changed($self, /)\n--\n\n"
     "False only where it is proved that the path still names this file with these bytes; else True."},
    {"refresh", snapshot_refresh, METH_NOARGS,
     "refresh($self, /)\n--\n\n"
     "A Snapshot of the file as it is now, with the same options; the same bytes, at no cost, if it did\n"
     "not change. This one stays as it is, and open."},
    {"share", snapshot_share, METH_NOARGS,
     "share($self, /)\n--\n\nAnother owner of the same bytes, to be closed on its own."},
    {"identity", snapshot_identity, METH_NOARGS,
     "identity($self, /)\n--\n\n"
     "A key for caches: equal keys whose `exact` is true prove equal bytes of the same range of the file."},
    {"advise", KEYWORDS(snapshot_advise), METH_VARARGS | METH_KEYWORDS,
     "advise($self, /, advice, offset=0, length=0)\n--\n\n"
     "Say how the bytes will be read: 'sequential', 'random', 'willneed', 'populate' or 'hugepage'.\n"
     "length 0 is to the end."},
    {"detach", snapshot_detach, METH_NOARGS,
     "detach($self, /)\n--\n\n"
     "Make the bytes private now, in place, so that no writer waits for this process. Views stay valid."},
    {},
};

PyGetSetDef snapshot_attributes[] = {
    {"how", snapshot_how, nullptr,
     "How the bytes are kept: 'sealed', 'leased', 'cloned', 'copied', 'paged', 'spilled', 'cooperative' or\n"
     "'trusted'.",
     nullptr},
    {"when", snapshot_when, nullptr, "The moment they come from: 'torn', 'verified' or 'point_in_time'.",
     nullptr},
    {"current", snapshot_current, nullptr, "What keeps them now: 'shared', 'private' or 'lost'.", nullptr},
    {"private_bytes", snapshot_private_bytes, nullptr, "Bytes of memory of our own held for it now.",
     nullptr},
    {"lost_bytes", snapshot_lost_bytes, nullptr, "Bytes that could not be kept; 0 unless current is 'lost'.",
     nullptr},
    {"name", snapshot_name, nullptr, "The path or descriptor it was opened by.", nullptr},
    {"closed", snapshot_closed, nullptr, "True after close().", nullptr},
    {},
};

PyMemberDef snapshot_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(snapshot_object, weak_references), READONLY, nullptr},
    {},
};

constexpr char snapshot_doc[] =
    "The bytes of a file, held still: made by open(), open_many(), refresh() and share().\n\n"
    "Has the read-only buffer protocol: memoryview(s), re.search(pattern, s), hashlib, numpy.frombuffer(s)\n"
    "and struct.unpack_from read it without a copy. len(s), s[i] (int), s[i:j] (bytes), `b'words' in s`.\n\n"
    "Bytes once seen never change, whatever is done to the file. Where some could not be kept (current is\n"
    "'lost'), the methods and s[...] raise Error, and touching those bytes through a view is a fatal\n"
    "signal, as with mmap. A forked child finds what is leased or paged absent, unless it was opened with\n"
    "fork='carry'.";

PyType_Slot snapshot_slots[] = {
    {Py_tp_doc, const_cast<char*>(snapshot_doc)},
    {Py_tp_dealloc, reinterpret_cast<void*>(snapshot_dealloc)},
    {Py_tp_repr, reinterpret_cast<void*>(snapshot_repr)},
    {Py_tp_methods, snapshot_methods},
    {Py_tp_getset, snapshot_attributes},
    {Py_tp_members, snapshot_members},
    {Py_sq_length, reinterpret_cast<void*>(snapshot_length)},
    {Py_sq_item, reinterpret_cast<void*>(snapshot_item)},
    {Py_sq_contains, reinterpret_cast<void*>(snapshot_contains)},
    {Py_mp_length, reinterpret_cast<void*>(snapshot_length)},
    {Py_mp_subscript, reinterpret_cast<void*>(snapshot_subscript)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(snapshot_get_buffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(snapshot_release_buffer)},
    {0, nullptr},
};

PyType_Spec snapshot_spec = {
    "stillmap.Snapshot", sizeof(snapshot_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, snapshot_slots};

PyStructSequence_Field identity_fields[] = {
    {"exact", "equal keys, both exact, prove equal bytes"},
    {"device", "st_dev"},
    {"inode", "st_ino"},
    {"length", "size of the file in bytes"},
    {"birth_ns", "nanoseconds since 1970; 0 where the file system has none"},
    {"ctime_ns", "nanoseconds since 1970"},
    {"generation", "0: reserved"},
    {nullptr, nullptr},
};
PyStructSequence_Desc identity_description = {
    "stillmap.Identity", "A key for caches; see Snapshot.identity().", identity_fields, 7};

// --- the module's functions ---

// What open was given: a path, encoded, or a descriptor.
struct target {
  object name, path;
  int fd = -1;

  static bool is_path(PyObject* given) noexcept {
    return PyUnicode_Check(given) || PyBytes_Check(given) || PyObject_HasAttrString(given, "__fspath__");
  }
  bool read_path(PyObject* given) noexcept {
    name.reset(PyOS_FSPath(given));
    PyObject* encoded = nullptr;
    if (!name || !PyUnicode_FSConverter(name.get(), &encoded)) return false;
    path.reset(encoded);
    return true;
  }
  bool read(PyObject* given) noexcept {
    if (is_path(given)) return read_path(given);
    if (!PyLong_Check(given) && !PyObject_HasAttrString(given, "fileno")) {
      PyErr_Format(PyExc_TypeError,
                   "expected a str, bytes, os.PathLike, a descriptor or what has fileno(), not %R", given);
      return false;
    }
    fd = PyObject_AsFileDescriptor(given);
    name.reset(fd >= 0 ? PyLong_FromLong(fd) : nullptr);
    return name != nullptr;
  }
};

PyObject* open_one(PyObject* module, PyObject* arguments, PyObject* keywords) noexcept {
  PyObject* given = nullptr;
  still_options options;
  if (!read_arguments(arguments, keywords, "O|$O&O&O&O&O&pppO&O&O&:open", "path", &given, options))
    return nullptr;
  target from;
  if (!from.read(given)) return nullptr;
  object made = make_snapshot(state_of(module), from.name.get());
  if (!made) return nullptr;
  still_snapshot** const into = &of(made.get())->handle;
  const char* const path = from.path ? PyBytes_AsString(from.path.get()) : nullptr;
  const int error = unlocked([&] {
    return path != nullptr ? still_open(path, &options, into) : still_open_fd(from.fd, &options, into);
  });
  return error == 0 ? made.release()
                    : raise(state_of(module), error, path != nullptr ? from.name.get() : nullptr);
}

PyObject* open_several(PyObject* module, PyObject* arguments, PyObject* keywords) noexcept {
  PyObject* given = nullptr;
  still_options options;
  if (!read_arguments(arguments, keywords, "O|$O&O&O&O&O&pppO&O&O&:open_many", "paths", &given, options))
    return nullptr;
  if (target::is_path(given))
    return PyErr_Format(PyExc_TypeError, "open_many takes several paths, not the one path %R", given);
  const object wanted(PySequence_List(given));
  if (!wanted) return nullptr;
  const Py_ssize_t count = PyList_Size(wanted.get());
  const auto size = static_cast<size_t>(count);
  const std::unique_ptr<target[]> from(new (std::nothrow) target[size]);
  const std::unique_ptr<const char*[]> paths(new (std::nothrow) const char*[size]);
  const std::unique_ptr<still_snapshot*[]> handles(new (std::nothrow) still_snapshot*[size]());
  if (!from || !paths || !handles) return PyErr_NoMemory();
  object made(PyList_New(count));
  if (!made) return nullptr;
  for (size_t i = 0; i < size; ++i) {
    const auto at = static_cast<Py_ssize_t>(i);
    if (!from[i].read_path(PyList_GetItem(wanted.get(), at))) return nullptr;
    paths[i] = PyBytes_AsString(from[i].path.get());
    object one = make_snapshot(state_of(module), from[i].name.get());
    if (!one || PyList_SetItem(made.get(), at, one.release()) < 0) return nullptr;
  }
  const int error = unlocked([&] { return still_open_many(paths.get(), size, &options, handles.get()); });
  if (error != 0) {
    PyObject* name = nullptr;  // of the file that the message begins with
    for (size_t i = 0; i < size && name == nullptr; ++i) {
      size_t length = 0;
      const int named = begins_with_name(still_message(), from[i].name.get(), length);
      if (named < 0) return nullptr;
      if (named > 0) name = from[i].name.get();
    }
    return raise(state_of(module), error, name);
  }
  for (size_t i = 0; i < size; ++i)
    of(PyList_GetItem(made.get(), static_cast<Py_ssize_t>(i)))->handle = handles[i];
  return made.release();
}

PyObject* detach_all(PyObject* module, PyObject*) noexcept {
  const int error = unlocked([] { return still_detach(nullptr); });
  return error == 0 ? Py_NewRef(Py_None) : raise(state_of(module), error, nullptr);
}

constexpr char open_doc[] =
    "open(path, *, require=None, backing='auto', offset=0, length=0, memory_budget=0, strict=False,\n"
    "     populate=False, synced=False, padding=0, access='default', fork='absent')\n--\n\n"
    "Open a snapshot of a file, whose bytes never change once they were seen.\n\n"
    "path: a str, bytes or os.PathLike, an open descriptor, or an object with fileno() (what such an object\n"
    "    has buffered is not in the file yet). A descriptor may be closed at once.\n"
    "require: the weakest consistency accepted, 'torn', 'verified' or 'point_in_time'. None is 'verified',\n"
    "    or 'torn' for a backing that has no other. Where it cannot be had, the open fails.\n"
    "backing: 'auto', or insist on one (see Snapshot.how).\n"
    "offset, length: of the part wanted, in bytes; length 0 is to the end.\n"
    "memory_budget: bytes of private memory that a copy may take; 0 is the process's.\n"
    "strict: keep no lease, so that nothing depends on this process not being stopped.\n"
    "populate: map all pages in before returning.\n"
    "synced: write the file back before trusting a lease on it.\n"
    "padding: zeros promised behind the last byte, outside the buffer, for what reads beyond it.\n"
    "access: 'default', 'sequential' or 'random'.\n"
    "fork: 'carry' for a child made by fork to have the bytes.\n\n"
    "Errors: OSError with errno and filename; Error, a subclass with a `code`, for the library's own.";

constexpr char open_many_doc[] =
    "open_many(paths, *, require=None, backing='auto', offset=0, length=0, memory_budget=0, strict=False,\n"
    "          populate=False, synced=False, padding=0, access='default', fork='absent')\n--\n\n"
    "Open a list of snapshots, all or none. With require='point_in_time' they are of one instant.";

PyMethodDef module_functions[] = {
    {"open", KEYWORDS(open_one), METH_VARARGS | METH_KEYWORDS, open_doc},
    {"open_many", KEYWORDS(open_several), METH_VARARGS | METH_KEYWORDS, open_many_doc},
    {"detach_all", detach_all, METH_NOARGS,
     "detach_all()\n--\n\nDetach every leased snapshot of the process: before it is stopped, say."},
    {},
};

constexpr char error_doc[] =
    "What the library itself refuses. `code` is 'busy_writer', 'unsupported', 'over_budget', 'changing' or\n"
    "'lost'; `errno` is its number in stillmap.h.";

int module_exec(PyObject* module) noexcept {
  module_state* const state = state_of(module);
  state->error = PyErr_NewExceptionWithDoc("stillmap.Error", error_doc, PyExc_OSError, nullptr);
  if (state->error == nullptr || PyModule_AddObjectRef(module, "Error", state->error) < 0) return -1;
  state->snapshot =
      reinterpret_cast<PyTypeObject*>(PyType_FromModuleAndSpec(module, &snapshot_spec, nullptr));
  if (state->snapshot == nullptr || PyModule_AddType(module, state->snapshot) < 0) return -1;
  state->identity = PyStructSequence_NewType(&identity_description);
  if (state->identity == nullptr || PyModule_AddType(module, state->identity) < 0) return -1;
  return PyModule_AddStringConstant(module, "version", still_version());
}

int module_traverse(PyObject* module, visitproc visit, void* arg) noexcept {
  module_state* const state = state_of(module);
  Py_VISIT(state->error);
  Py_VISIT(reinterpret_cast<PyObject*>(state->snapshot));
  Py_VISIT(reinterpret_cast<PyObject*>(state->identity));
  return 0;
}
int module_clear(PyObject* module) noexcept {
  module_state* const state = state_of(module);
  Py_XDECREF(std::exchange(state->error, nullptr));
  Py_XDECREF(reinterpret_cast<PyObject*>(std::exchange(state->snapshot, nullptr)));
  Py_XDECREF(reinterpret_cast<PyObject*>(std::exchange(state->identity, nullptr)));
  return 0;
}
void module_free(void* module) noexcept {
  module_clear(static_cast<PyObject*>(module));
}

PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(module_exec)},
    {0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_stillmap",      "File mappings that hold still.",
                          sizeof(module_state),  module_functions, module_slots,
                          module_traverse,       module_clear,     module_free};

}  // namespace

PyMODINIT_FUNC PyInit__stillmap() {
  return PyModuleDef_Init(&definition);
}
