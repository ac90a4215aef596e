//! C++'s `new` and `delete`, in all their variants.
//!
//! Without memory `new` calls the handler that `std::set_new_handler` set, again and again, and
//! throws `std::bad_alloc` where there is none. Both functions are C++'s own: they are looked up
//! when they are needed, so that the library does not depend on C++'s.

use core::ffi::{CStr, c_void};
use core::ptr::{self, NonNull};

use buddy_slab_malloc::heap;

/// What `new` without an alignment promises.
const ALIGN: usize = 16;

/// `std::new_handler`
type Handler = Option<unsafe extern "C-unwind" fn()>;

fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Asks the program's handler to free something; `false` if there is none.
fn ask_handler() -> bool {
    let get = symbol(c"_ZSt15get_new_handlerv");
    if get.is_null() {
        return false;
    }
    // SAFETY: `std::new_handler std::get_new_handler()`.
    let handler = unsafe {
        let get = core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> Handler>(get);
        get()
    };
    match handler {
        Some(handler) => {
            // SAFETY: a function of the program's, made to be called here; it may throw.
            unsafe { handler() };
            true
        }
        None => false,
    }
}

/// Throws `std::bad_alloc`.
fn throw() -> ! {
    let throw = symbol(c"_ZSt17__throw_bad_allocv");
    if !throw.is_null() {
        // SAFETY: `void std::__throw_bad_alloc()`, which does not return.
        unsafe {
            let throw =
                core::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn() -> !>(throw);
            throw()
        }
    }
    // No C++ library to throw with.
    // SAFETY: no condition.
    unsafe { libc::abort() }
}

#[cold]
#[inline(never)]
fn new_again(size: usize, align: usize) -> *mut c_void {
    while ask_handler() {
        let object = heap::allocate(size, align);
        if !object.is_null() {
            return object.cast();
        }
    }
    ptr::null_mut()
}

#[inline(always)]
fn new_or_null(size: usize, align: usize) -> *mut c_void {
    let object = heap::allocate(size, align);
    if object.is_null() { new_again(size, align) } else { object.cast() }
}

#[inline(always)]
fn new_or_throw(size: usize, align: usize) -> *mut c_void {
    let object = new_or_null(size, align);
    if object.is_null() { throw() } else { object }
}

/// Exports a function under the name that C++ gives it on 64-bit targets, and on 32-bit ones.
macro_rules! export {
    ($(#[$doc:meta])* $long:literal $short:literal fn $name:ident $rest:tt $body:block) => {
        export!(@ $(#[$doc])* $long $short $name $rest $body);
    };
    (@ $(#[$doc:meta])* $long:literal $short:literal $name:ident
     ($($arg:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        #[cfg_attr(target_pointer_width = "64", unsafe(export_name = $long))]
        #[cfg_attr(target_pointer_width = "32", unsafe(export_name = $short))]
        pub extern "C-unwind" fn $name($($arg: $type),*) -> *mut c_void $body
    };
}

/// `const std::nothrow_t &`
type Nothrow = *const c_void;

export! {
    /// `operator new(size)`
    "_Znwm" "_Znwj" fn new(size: usize) {
        new_or_throw(size, ALIGN)
    }
}

export! {
    /// `operator new[](size)`
    "_Znam" "_Znaj" fn new_array(size: usize) {
        new_or_throw(size, ALIGN)
    }
}

export! {
    /// `operator new(size, std::nothrow)`
    "_ZnwmRKSt9nothrow_t" "_ZnwjRKSt9nothrow_t" fn new_nothrow(size: usize, _tag: Nothrow) {
        new_or_null(size, ALIGN)
    }
}

export! {
    /// `operator new[](size, std::nothrow)`
    "_ZnamRKSt9nothrow_t" "_ZnajRKSt9nothrow_t" fn new_nothrow_array(size: usize, _tag: Nothrow) {
        new_or_null(size, ALIGN)
    }
}

export! {
    /// `operator new(size, alignment)`
    "_ZnwmSt11align_val_t" "_ZnwjSt11align_val_t" fn new_aligned(size: usize, align: usize) {
        new_or_throw(size, align.max(ALIGN))
    }
}

export! {
    /// `operator new[](size, alignment)`
    "_ZnamSt11align_val_t" "_ZnajSt11align_val_t" fn new_aligned_array(size: usize, align: usize) {
        new_or_throw(size, align.max(ALIGN))
    }
}

export! {
    /// `operator new(size, alignment, std::nothrow)`
    "_ZnwmSt11align_val_tRKSt9nothrow_t" "_ZnwjSt11align_val_tRKSt9nothrow_t" fn new_aligned_nothrow(size: usize, align: usize, _tag: Nothrow) {
        new_or_null(size, align.max(ALIGN))
    }
}

export! {
    /// `operator new[](size, alignment, std::nothrow)`
    "_ZnamSt11align_val_tRKSt9nothrow_t" "_ZnajSt11align_val_tRKSt9nothrow_t" fn new_aligned_nothrow_array(size: usize, align: usize, _tag: Nothrow) {
        new_or_null(size, align.max(ALIGN))
    }
}

/// The body of every `delete`.
///
/// # Safety
/// - `ptr` is null, or came from this library and was not freed since.
#[inline(always)]
unsafe fn release(ptr: *mut c_void) {
    if let Some(ptr) = NonNull::new(ptr.cast()) {
        // SAFETY: the caller's condition.
        unsafe { heap::release(ptr) }
    }
}

/// Exports a `delete`, likewise.
macro_rules! export_delete {
    ($($doc:literal $long:literal $short:literal $name:ident($($arg:ident: $type:ty),*);)*) => {
        $(
            #[doc = $doc]
            ///
            /// # Safety
            /// - `ptr` is null, or came from this library and was not freed since.
            #[cfg_attr(target_pointer_width = "64", unsafe(export_name = $long))]
            #[cfg_attr(target_pointer_width = "32", unsafe(export_name = $short))]
            pub unsafe extern "C" fn $name(ptr: *mut c_void $(, $arg: $type)*) {
                // SAFETY: the caller's condition.
                unsafe { release(ptr) }
            }
        )*
    };
}

export_delete! {
    "`operator delete(ptr)`" "_ZdlPv" "_ZdlPv" delete();
    "`operator delete[](ptr)`" "_ZdaPv" "_ZdaPv" delete_array();
    "`operator delete(ptr, size)`" "_ZdlPvm" "_ZdlPvj" delete_sized(_size: usize);
    "`operator delete[](ptr, size)`" "_ZdaPvm" "_ZdaPvj" delete_sized_array(_size: usize);
    "`operator delete(ptr, alignment)`" "_ZdlPvSt11align_val_t" "_ZdlPvSt11align_val_t" delete_aligned(_align: usize);
    "`operator delete[](ptr, alignment)`" "_ZdaPvSt11align_val_t" "_ZdaPvSt11align_val_t" delete_aligned_array(_align: usize);
    "`operator delete(ptr, size, alignment)`" "_ZdlPvmSt11align_val_t" "_ZdlPvjSt11align_val_t" delete_sized_aligned(_size: usize, _align: usize);
    "`operator delete[](ptr, size, alignment)`" "_ZdaPvmSt11align_val_t" "_ZdaPvjSt11align_val_t" delete_sized_aligned_array(_size: usize, _align: usize);
    "`operator delete(ptr, std::nothrow)`" "_ZdlPvRKSt9nothrow_t" "_ZdlPvRKSt9nothrow_t" delete_nothrow(_tag: Nothrow);
    "`operator delete[](ptr, std::nothrow)`" "_ZdaPvRKSt9nothrow_t" "_ZdaPvRKSt9nothrow_t" delete_nothrow_array(_tag: Nothrow);
    "`operator delete(ptr, alignment, std::nothrow)`" "_ZdlPvSt11align_val_tRKSt9nothrow_t" "_ZdlPvSt11align_val_tRKSt9nothrow_t" delete_aligned_nothrow(_align: usize, _tag: Nothrow);
    "`operator delete[](ptr, alignment, std::nothrow)`" "_ZdaPvSt11align_val_tRKSt9nothrow_t" "_ZdaPvSt11align_val_tRKSt9nothrow_t" delete_aligned_nothrow_array(_align: usize, _tag: Nothrow);
}
