// Clips with the right words, kept in this browser alone. They are in IndexedDB: what localStorage
// holds is less than two minutes of sound.

const STORE = "clips";

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("hyperasr", 1);
    request.onupgradeneeded = () =>
      request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function within(mode, act) {
  const database = await opened();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

/** Keep {text, heard, language, wav}; returns its id. With an id it replaces the clip of that id. */
export const keep = (clip) => within("readwrite", (store) => store.put(clip));
export const all = () => within("readonly", (store) => store.getAll());
export const remove = (id) => within("readwrite", (store) => store.delete(id));
export const clear = () => within("readwrite", (store) => store.clear());
