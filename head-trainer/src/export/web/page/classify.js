// Loads the model that lies beside this page and says what an image shows. Knows the model by
// model.json alone; asks no other host for anything.
"use strict";

(() => {
  const at = (id) => document.getElementById(id);
  const input = at("file");
  const SHOWN = 10; // classes in the table at most
  let model = null; // model.json
  let session = null;
  let ort = null;
  let queue = Promise.resolve(); // the engine runs one image at a time
  let asked = 0; // images so far; an answer to an earlier one is dropped

  const say = (text) => { at("status").textContent = text; };

  function fail(what, error) {
    const reason = error && error.message ? error.message : String(error);
    at("error").textContent = `${what}: ${reason}`;
    at("error").hidden = false;
    say("");
  }

  async function fetched(name, total) {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name}: the server says ${response.status} ${response.statusText}`);
    if (!total || !response.body) return response.arrayBuffer();
    const bytes = new Uint8Array(total);
    const reader = response.body.getReader();
    let done = 0;
    for (;;) {
      const { done: ended, value } = await reader.read();
      if (ended) break;
      if (done + value.length > total) throw new Error(`${name} is larger than model.json says`);
      bytes.set(value, done);
      done += value.length;
      say(`Loading the model: ${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
    }
    if (done !== total) throw new Error(`${name} ends after ${done} of ${total} bytes`);
    return bytes.buffer;
  }

  function describe() {
    document.title = model.name;
    at("name").textContent = model.name;
    const labels = model.labels;
    at("labels").textContent = labels.length > 6
      ? `${labels.slice(0, 5).join(", ")} and ${labels.length - 5} other classes`
      : `${labels.slice(0, -1).join(", ")} and ${labels[labels.length - 1]}`;
    const facts = { ...model.provenance, model_sha256: model.model_sha256 };
    for (const [name, value] of Object.entries(facts)) {
      const [term, said] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      said.textContent = value;
      at("provenance").append(term, said);
    }
  }

  async function load() {
    if (location.protocol === "file:") {
      throw new Error("a browser loads no model for a page that was opened as a file; serve this folder and open its "
        + "address instead, for example: python3 -m http.server --bind 127.0.0.1 8000, then http://127.0.0.1:8000/");
    }
    if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
    model = JSON.parse(new TextDecoder().decode(await fetched("model.json")));
    if (model.format !== "headstart web classifier" || model.version !== 1) {
      throw new Error("model.json is of another version than this page");
    }
    describe();
    ort = await import("./onnxruntime-web/ort.wasm.bundle.min.js");
    // More threads need headers that a plain server of files does not send.
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await fetched("onnxruntime-web/ort-wasm-simd-threaded.wasm");
    const bytes = await fetched("model.onnx", model.model_bytes);
    say("Preparing the model");
    session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
    input.disabled = false;
    say("Ready");
  }

  // An image's parts without what says how a camera was held: browsers turn images by it whatever they are asked for.
  async function asStored(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const view = new DataView(bytes.buffer);
    const reads = (text, at) => at + text.length <= bytes.length
      && [...text].every((c, i) => bytes[at + i] === c.charCodeAt(0));
    const parts = [];
    let kept = 0; // up to where bytes are in parts, or left out
    const leaveOut = (from, to) => {
      parts.push(bytes.subarray(kept, from));
      kept = to;
    };
    if (reads("\xff\xd8", 0)) {
      // JPEG: marker segments up to the first scan.
      for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda;) {
        if (bytes[at + 1] === 0xff) {
          at += 1; // fill
          continue;
        }
        const end = at + 2 + view.getUint16(at + 2);
        if (bytes[at + 1] === 0xe1 && reads("Exif\0", at + 4)) leaveOut(at, end);
        at = end;
      }
    } else if (reads("\x89PNG", 0)) {
      for (let at = 8; at + 12 <= bytes.length;) {
        const end = at + 12 + view.getUint32(at);
        if (reads("eXIf", at + 4)) leaveOut(at, end);
        at = end;
      }
    } else if (reads("RIFF", 0) && reads("WEBP", 8)) {
      for (let at = 12; at + 8 <= bytes.length;) {
        const size = view.getUint32(at + 4, true);
        if (reads("EXIF", at)) bytes.set([0x65, 0x78, 0x69, 0x66], at); // a chunk that nobody knows is passed over
        at += 8 + size + size % 2;
      }
    }
    parts.push(bytes.subarray(kept));
    return new Blob(parts, { type: file.type });
  }

  // The pixels as predict sees them: [height, width, 3], 8 bits, as stored (no colour profile is applied).
  async function pixels(file) {
    const bitmap = await createImageBitmap(model.exif === "apply" ? file : await asStored(file), {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
    const { width, height } = bitmap;
    if (width * height > model.max_pixels) {
      throw new Error(`${width}x${height} pixels are more than the limit of ${model.max_pixels}`);
    }
    const canvas = at("image");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    if (!context) throw new Error(`no canvas of ${width}x${height} pixels is to be had`);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const rgba = context.getImageData(0, 0, width, height).data;
    const rgb = new Uint8Array(width * height * 3);
    let transparent = false;
    for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
      rgb[to] = rgba[from];
      rgb[to + 1] = rgba[from + 1];
      rgb[to + 2] = rgba[from + 2];
      transparent ||= rgba[from + 3] !== 255;
    }
    return { rgb, width, height, transparent };
  }

  function show(image, probabilities, label, milliseconds) {
    at("decision").textContent = model.labels[label];
    const percent = (p) => `${(100 * p).toFixed(2)} %`;
    if (model.threshold === null) {
      at("why").textContent = "It is the most probable class.";
    } else {
      const above = label === 1 ? "above" : "not above";
      at("why").textContent = `The probability of ${model.labels[1]}, ${percent(probabilities[1])}, is ${above} the `
        + `threshold of ${percent(model.threshold)}.`;
    }
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    const rows = order.slice(0, SHOWN).map((k) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = model.labels[k];
      const number = document.createElement("td");
      number.className = "n";
      number.textContent = percent(probabilities[k]);
      number.dataset.class = k;
      number.dataset.probability = probabilities[k];
      const bar = document.createElement("td");
      const meter = document.createElement("meter");
      meter.value = probabilities[k];
      meter.setAttribute("aria-hidden", "true");
      bar.append(meter);
      row.append(name, number, bar);
      return row;
    });
    at("probabilities").replaceChildren(...rows);
    const notes = [];
    if (order.length > SHOWN) notes.push(`${order.length - SHOWN} less probable classes are left out.`);
    if (image.transparent) {
      notes.push("The image has transparent parts; browsers do not keep the colours under them, so the probabilities "
        + "may differ from those of head-trainer predict.");
    }
    at("note").textContent = notes.join(" ");
    at("note").hidden = notes.length === 0;
    at("result").hidden = false;
    say(`${image.width}x${image.height} pixels, ${Math.round(milliseconds)} ms`);
  }

  async function classify(file) {
    const mine = ++asked;
    at("error").hidden = true;
    at("result").hidden = true;
    say("Looking at the image");
    let image;
    try {
      image = await pixels(file);
    } catch (error) {
      if (mine === asked) fail(`${file.name || "the image"} cannot be decoded`, error);
      return;
    }
    if (mine !== asked) return;
    try {
      const n = model.images; // a model that takes several gets the image several times
      const data = new Uint8Array(n * image.rgb.length);
      for (let i = 0; i < n; i++) data.set(image.rgb, i * image.rgb.length);
      const tensor = new ort.Tensor("uint8", data, [n, image.height, image.width, 3]);
      const start = performance.now();
      const { probabilities, label } = await session.run({ image: tensor });
      if (mine !== asked) return;
      const ofOne = probabilities.data.slice(0, model.labels.length);
      show(image, ofOne, Number(label.data[0]), performance.now() - start);
    } catch (error) {
      if (mine === asked) fail("the model failed on the image", error);
    }
  }

  function take(files) {
    if (files.length === 0 || !session) return;
    queue = queue.then(() => classify(files[0]));
  }

  input.addEventListener("change", () => take([...input.files]));
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) at("drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    take([...event.dataTransfer.files]);
  });

  load().catch((error) => fail("the model cannot be loaded", error));
})();
