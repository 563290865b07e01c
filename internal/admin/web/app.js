// What the page does beyond links and forms: it asks for itself again when the stream says that something happened, and
// answers keys. Without it everything still works, only not by itself.
(() => {
  'use strict'
  const $ = selector => document.querySelector(selector)

  // Times are shown in the browser's zone: the server renders them, so it must know which.
  const zone = String(-new Date().getTimezoneOffset())
  const known = document.cookie.split('; ').includes('breakwater_zone=' + zone)
  if (!known) document.cookie = 'breakwater_zone=' + zone + '; path=/; max-age=31536000; samesite=strict'

  // The theme is the system's, unless chosen here. theme.js sets it before anything is drawn.
  const themes = ['system', 'light', 'dark']
  const theme = () => localStorage.getItem('theme') || 'system'
  const apply = () => {
    document.documentElement.dataset.theme = theme()
    const button = $('[data-theme-switch]')
    if (button) button.textContent = 'Theme: ' + theme()
  }
  apply()

  // At most one refresh a second: the first change at once, later ones together.
  let last = 0, timer = 0
  function changed() {
    if (timer || document.hidden) return
    timer = setTimeout(() => {
      timer = 0
      last = Date.now()
      htmx.trigger(document.body, 'live')
    }, Math.max(0, last + 1000 - Date.now()))
  }
  const every = 10_000 // ages grow even when nothing happens

  function listen() {
    const pulse = $('#pulse')
    if (!pulse) return
    const say = (state, word) => {
      pulse.dataset.state = state
      pulse.querySelector('[data-word]').textContent = word
    }
    const stream = new EventSource('/api/v1/stream?only=event,attempt,backend')
    stream.onopen = () => { say('live', 'Live'); changed() }
    stream.onerror = () => say('lost', 'Not live')
    stream.onmessage = changed
    for (const name of ['event', 'attempt', 'backend']) stream.addEventListener(name, changed)
    setInterval(changed, every)
    document.addEventListener('visibilitychange', changed)
    addEventListener('pagehide', () => stream.close())
    addEventListener('pageshow', e => { if (e.persisted) location.reload() })
    if (!known && zone !== '0') changed()
  }

  // A filter's URL holds only what was filled in, so that it reads well and can be kept.
  document.addEventListener('submit', e => {
    if (!e.target.matches('[data-tidy]')) return
    for (const field of e.target.elements) if (field.name && !field.value) field.disabled = true
    setTimeout(() => { for (const field of e.target.elements) field.disabled = false })
  })
  document.addEventListener('change', e => { if (e.target.matches('[data-submit]')) e.target.form.requestSubmit() })

  document.addEventListener('click', async e => {
    if (e.target.closest('[data-theme-switch]')) {
      localStorage.setItem('theme', themes[(themes.indexOf(theme()) + 1) % themes.length])
      apply()
    }
    if (e.target.closest('[data-help]')) $('#help').showModal()
    const copy = e.target.closest('[data-copy]')
    if (copy) {
      try {
        const answer = await fetch(copy.dataset.copy)
        if (!answer.ok) throw new Error(answer.statusText)
        await navigator.clipboard.writeText(await answer.text())
        notice('Copied.')
      } catch {
        notice('The browser does not allow copying here. Download it instead.')
      }
    }
  })

  let noticeTimer
  function notice(text) {
    const p = document.createElement('p')
    p.textContent = text
    $('#notice').replaceChildren(p)
    fade()
  }
  function fade() {
    clearTimeout(noticeTimer)
    noticeTimer = setTimeout(() => $('#notice').replaceChildren(), 6000)
  }

  // Keys. They do nothing while one types, or with a modifier.
  const rows = () => [...document.querySelectorAll('[data-row]')]
  const go = { o: '/', e: '/events', b: '/backends', s: '/sources', q: '/quarantine', c: '/config' }
  let going = 0
  document.addEventListener('keydown', e => {
    if (e.ctrlKey || e.metaKey || e.altKey) return
    if (e.target.closest('input, select, textarea, dialog[open]')) {
      if (e.key === 'Escape') e.target.blur()
      return
    }
    if (going && Date.now() - going < 1500 && go[e.key]) {
      location.href = go[e.key]
      return
    }
    going = 0
    const all = rows(), at = all.indexOf(document.activeElement)
    switch (e.key) {
      case 'j': all[Math.min(at + 1, all.length - 1)]?.focus(); break
      case 'k': all[Math.max(at - 1, 0)]?.focus(); break
      case 'g': going = Date.now(); break
      case 'u': { const up = $('[data-up]'); if (up) up.click(); break }
      case '?': $('#help').showModal(); break
      case '/': {
        e.preventDefault()
        const q = $('#q')
        if (q) q.select(); else location.href = '/events#q'
        break
      }
    }
  })

  document.addEventListener('DOMContentLoaded', () => {
    apply()
    if (location.hash === '#q') $('#q')?.focus()
    if ($('#notice')?.firstElementChild) {
      fade()
      const url = new URL(location.href) // the notice was said: a reload does not say it again
      url.searchParams.delete('done')
      history.replaceState(null, '', url)
    }
    document.body.addEventListener('htmx:after:swap', () => { if ($('#notice')?.firstElementChild) fade() })
    listen()
  })
})()
